// What the user may do, so that views offer only that. The server decides; this spares an attempt that it would refuse.

let self = null;

/** Who the user is, as `tokens/self` tells it; null while nobody knows. */
export const me = () => self;

/** Keep who the user is. */
export function remember(told) {
  self = told;
}

/** The user's grants of a permission, as lists of stream patterns; null if nothing is known that would forbid it. */
function grants(permission) {
  if (!self?.is_authenticated) return null;
  const [noun, verb] = permission.split(":");
  const wanted = [permission, `${noun}:*`, `*:${verb}`, "*:*"];
  return self.permissions.filter(({ allows }) => allows.some((each) => wanted.includes(each))).map(({ streams }) => streams);
}

/** Whether the user has a permission: for a stream, or, where none is named, for every stream. */
export function may(permission, stream = null) {
  const found = grants(permission);
  return found === null || found.flat().some((pattern) => pattern === "*" || (stream !== null && fits(pattern, stream)));
}

/** Whether the user has a permission for any stream at all. */
export function mayAnywhere(permission) {
  const found = grants(permission);
  return found === null || found.length > 0;
}

/** Whether a stream's name fits a pattern, in which `*` stands for any text and `?` for a character. */
function fits(pattern, name) {
  const source = pattern.replace(/[.*?]/g, (sign) => (sign === "*" ? "[^]*" : sign === "?" ? "[^]" : `\\${sign}`));
  return new RegExp(`^${source}$`, "u").test(name);
}
