/** Requests and answers of the control socket: one JSON object a line (docs/specs/control.md). */
import { z } from "zod";

/**
 * Grows when something that callers rely on changes its meaning or goes away. New orders, events and fields
 * come without a new version: who does not know them passes them over.
 */
export const CONTROL_VERSION = 1;

/** For programs. */
export const errorCodes = [
  "already-held",
  "already-running",
  "bad-request",
  "boot-files",
  "failed",
  "half-copy",
  "no-peer",
  "no-room",
  "not-confirmed",
  "shared-disk",
  "too-long",
  "too-many",
  "unknown-command",
  "wrong-state",
  "wrong-version",
] as const;
export type ErrorCode = (typeof errorCodes)[number];

export const request = z.object(
  {
    /** Comes back in the answer. */
    id: z.unknown().optional(),
    /** What the caller was written for; left out: whatever the guardian speaks. */
    version: z.int('"version" must be a whole number').optional(),
    command: z.string('"command" is missing or no text'),
    arguments: z.record(z.string(), z.unknown(), '"arguments" must be an object').default({}),
  },
  "the line is no JSON object",
);
export type Request = z.infer<typeof request>;

export const answer = z.union([
  z.object({ id: z.unknown().optional(), result: z.record(z.string(), z.unknown()) }),
  z.object({ id: z.unknown().optional(), error: z.object({ code: z.string(), message: z.string() }) }),
]);
