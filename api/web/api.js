// The REST API: one function to ask it, and what went wrong as an error that says so.

import { session } from "./session.js";

export const ROOT = new URL("./", document.baseURI.split("#")[0]);

/** What the server refused, or that it did not answer (`status` 0). `body` is its problem document. */
export class Problem extends Error {
  constructor(status, title, detail, body = {}) {
    super(detail || title);
    this.status = status;
    this.title = title;
    this.body = body;
  }
}

/** The path of a resource; parts that come from elsewhere are encoded. */
export const path = (strings, ...values) => String.raw({ raw: strings }, ...values.map((each) => encodeURIComponent(each)));

async function problem(response) {
  let body = {};
  try {
    body = await response.json();
  } catch {
    // An answer that is no problem document: a proxy's, say.
  }
  return new Problem(
    response.status,
    body.title ?? response.statusText,
    body.detail ?? `The server answered ${response.status}.`,
    body,
  );
}

/**
 * The response to a request under `/api/v1/`. Throws a `Problem`; an abort is thrown as it is. A refusal of the token is told to
 * the page as well, unless the request `isProbe`, or another token was given meanwhile.
 */
export async function request(method, where, { body, query, signal, isProbe = false } = {}) {
  const url = new URL(`api/v1/${where}`, ROOT);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const headers = {};
  const { token } = session;
  if (token) headers.Authorization = `Bearer ${token}`;
  if (session.tenant) headers["X-Tenant-Id"] = session.tenant;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url, {
      method,
      headers,
      signal,
      cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "No answer", "The server cannot be reached. Does it still run?");
  }
  if (response.ok) return response;
  const refused = await problem(response);
  if (response.status === 401 && !isProbe && token === session.token)
    document.dispatchEvent(new CustomEvent("esb:token", { detail: refused }));
  throw refused;
}

export async function call(method, where, options) {
  const response = await request(method, where, options);
  return response.status === 204 ? null : response.json();
}

export const get = (where, options) => call("GET", where, options);
export const post = (where, body = {}, options = {}) => call("POST", where, { ...options, body });

/** The rows of an answer in SQL, as objects. */
export async function ask(sql, { signal } = {}) {
  const answer = await post("history/query", { sql }, { signal });
  return answer.rows.map((row) => Object.fromEntries(answer.columns.map((name, i) => [name, row[i]])));
}

/** A text in SQL. */
export const quoted = (text) => `'${String(text).replaceAll("'", "''")}'`;

/** Save text as a file. */
export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
