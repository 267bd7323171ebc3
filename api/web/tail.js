// The events of a stream: the newest ones, and then those to come. The server filters them.

import { get, path } from "./api.js";

const WAIT_MS = 20_000;
const PAST = 50;

/**
 * Give `take(events, page)` the newest events, newest first, and then what comes, for as long as the signal is not aborted.
 * `failed(error)` is called if the server refuses, which ends it, or if it does not answer, after which it is asked again.
 */
export async function follow(stream, { filter, signal, take, failed }) {
  const where = path`streams/${stream}/events`;
  const ask = (query) => get(where, { query: { filter, ...query }, signal });
  let cursor = null;
  let wait_ms = 0;
  while (!signal.aborted) {
    try {
      if (cursor === null) {
        cursor = (await ask({ from: "latest" })).tail_cursor; // before the past is read, so that nothing is missed in between
        const past = await ask({ newest_first: true, limit: PAST });
        take(past.events, past);
      }
      const page = await ask({ cursor, limit: 500, wait_ms: WAIT_MS });
      cursor = page.tail_cursor;
      wait_ms = 0;
      if (page.events.length > 0 || page.filter_failures) take(page.events.toReversed(), page);
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      failed(error);
      if (error.status !== 0) return;
      wait_ms = Math.min(wait_ms * 2 + 1000, 15_000);
      await new Promise((resolve) => setTimeout(resolve, wait_ms));
    }
  }
}

/** A page of older events than those that were seen, by the cursor of the page before. */
export const older = (stream, { filter, cursor, signal }) =>
  get(path`streams/${stream}/events`, { query: { filter, cursor, newest_first: true, limit: PAST }, signal });

/** Where an event is, as one word: what tells events apart that were read twice. */
export const placeOf = (event) => `${event.partition}/${event.lane}/${event.offset}`;
