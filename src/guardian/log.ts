/**
 * The guardian's log: one JSON line per event on stdout, for journald or a file. Writing it never waits and
 * never fails (log-sink.ts).
 */
import { pino } from "pino";
import { LogSink } from "./log-sink.ts";

export interface Log {
  info(text: string): void;
  warn(text: string): void;
  error(text: string): void;
}

/** So long the last lines are waited for. */
export const LAST_LINES_MS = 300;

/** @param fd stdout */
export function openLog(vm: string, fd = 1): Log & { readonly end: () => Promise<void> } {
  const options = { base: { vm }, timestamp: pino.stdTimeFunctions.isoTime };
  let lost = "";
  const ofLost = pino(options, { write: (line: string) => (lost = line) });
  const sink = new LogSink(fd, (lines, reason) => {
    ofLost.warn(`${lines} lines of this log were lost here: ${reason}`);
    return lost;
  });
  const log = pino(options, sink);
  return {
    info: (text) => log.info(text),
    warn: (text) => log.warn(text),
    error: (text) => log.error(text),
    end: () => sink.end(LAST_LINES_MS),
  };
}
