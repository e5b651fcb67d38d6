/** The guardian's log: one JSON line per event on stdout, for journald or a file. */
import { pino } from "pino";

export interface Log {
  info(text: string): void;
  warn(text: string): void;
  error(text: string): void;
}

export function openLog(vm: string): Log {
  return pino({ base: { vm }, timestamp: pino.stdTimeFunctions.isoTime });
}
