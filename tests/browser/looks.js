// What a test asks a page about its looks, as a function of what it is to look at.

(what) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const paint = canvas.getContext("2d", { willReadFrequently: true });
  /** Red, green, blue and alpha of any colour that CSS knows. */
  const parsed = (text) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = text;
    paint.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = paint.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = (colour) => {
    const [red, green, blue] = colour
      .slice(0, 3)
      .map((each) => (each / 255 <= 0.04045 ? each / 255 / 12.92 : ((each / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ratio = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const backdrop = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parsed(getComputedStyle(at).backgroundColor));
    return layers.reduceRight((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const isSeen = (element) =>
    element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && element.getBoundingClientRect().width > 1;

  const looks = {
    /** Contrast of pairs of colours, by the names of their variables. */
    pairs(pairs) {
      const probe = document.createElement("i");
      document.body.append(probe);
      const colour = (name) => {
        probe.style.color = `var(--${name})`;
        return parsed(getComputedStyle(probe).color);
      };
      const found = pairs.map(([text, ground]) => [text, ground, ratio(colour(text), colour(ground))]);
      probe.remove();
      return found;
    },
    /** Texts that are hard to read, with their contrast. */
    faint() {
      const found = [];
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const element = node.parentElement;
        if (!node.data.trim() || !isSeen(element) || element.closest("[disabled], .hidden, .skip")) continue;
        const style = getComputedStyle(element);
        const ground = element.ownerSVGElement
          ? parsed(
              getComputedStyle(document.documentElement).getPropertyValue("--surface") &&
                getComputedStyle(element.closest(".panel") ?? document.body).backgroundColor,
            )
          : backdrop(element);
        const ink = over(parsed(element.ownerSVGElement ? style.fill : style.color), ground);
        const isLarge =
          parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
        const contrast = ratio(ink, ground);
        if (contrast < (isLarge ? 3 : 4.5)) found.push([node.data.trim().slice(0, 40), contrast]);
      }
      return found;
    },
    /** What a screen reader could not name, and ids that are there twice. */
    nameless() {
      const found = [];
      const named = (element) =>
        (
          element.getAttribute("aria-label") ||
          element.labels?.[0]?.textContent ||
          element.textContent ||
          element.title ||
          ""
        ).trim();
      for (const element of document.querySelectorAll(
        "button, a[href], input, select, textarea, [role=img], [role=region], summary",
      )) {
        if (isSeen(element) && !named(element)) found.push(element.outerHTML.slice(0, 80));
      }
      const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
      found.push(...ids.filter((id, i) => ids.indexOf(id) !== i).map((id) => `the id ${id} twice`));
      for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby], [aria-controls]")) {
        for (const name of ["aria-labelledby", "aria-describedby", "aria-controls"]) {
          const id = element.getAttribute(name);
          if (id && !document.getElementById(id)) found.push(`${name} ${id} leads nowhere`);
        }
      }
      if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
      return found;
    },
    /** By how much the page is wider than the window. */
    overhang: () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  return looks[what.name](what.argument);
};
