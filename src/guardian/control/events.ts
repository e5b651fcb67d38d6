/** What those who `watch` are told (docs/specs/control.md). */
import { z } from "zod";
import { backupPhases, primaryPhases } from "./status.ts";

/** What an alarm can be about. */
export const alarmTopics = [
  "boot-files",
  "checkpoints",
  "disk",
  "guardian",
  "hypervisor",
  "listen",
  "memory",
  "path",
  "protection",
  "record",
  "tap",
  "vm",
  "witness",
] as const;
export type AlarmTopic = (typeof alarmTopics)[number];

export const event = z.discriminatedUnion("kind", [
  /** The state of protocol.md has changed, or the role. */
  z.object({
    kind: z.literal("phase"),
    role: z.enum(["primary", "backup"]),
    phase: z.enum([...primaryPhases, ...backupPhases]),
    generation: z.int(),
  }),
  /** It is in the log, too. */
  z.object({
    kind: z.literal("report"),
    level: z.enum(["info", "warn", "error"]),
    text: z.string(),
  }),
  /** Something that the VM does not need now is missing (`raised`), or is back. */
  z.object({
    kind: z.literal("alarm"),
    about: z.enum(alarmTopics),
    raised: z.boolean(),
    text: z.string(),
    /** Of a path: its number, from 1. */
    path: z.int().exactOptional(),
  }),
]);
export type GuardianEvent = Readonly<z.infer<typeof event>>;

type Field<Event, Name> = Event extends unknown
  ? Name extends keyof Event
    ? Event[Name]
    : undefined
  : never;
type Names<Event> = Event extends unknown ? keyof Event : never;

/** The same for whoever listens to all kinds: a field that its kind does not have is undefined. */
export type HeardEvent = {
  readonly [Name in Names<GuardianEvent>]?: Field<GuardianEvent, Name>;
};
