// Runs before anything is painted, so that the page does not flash in the wrong colours.
try {
  const theme = localStorage.getItem("esb.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Without storage the colours are those of the system.
}
