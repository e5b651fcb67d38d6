/** The kinds of witness, and how each is chosen. */
import { type EtcdOptions, EtcdRegister } from "./etcd.ts";
import { type LockFileOptions, LockFileRegister } from "./lock-file.ts";
import { NoWitness } from "./no-witness.ts";
import { type ServerClientOptions, ServerRegister } from "./server-client.ts";
import { type CheckedArbiter, type Notices, Witness } from "./witness.ts";

export type WitnessChoice =
  | ({ readonly kind: "etcd" } & EtcdOptions)
  | ({ readonly kind: "server" } & ServerClientOptions)
  | ({ readonly kind: "lock-file" } & LockFileOptions)
  /** Nobody: every question is granted. */
  | { readonly kind: "none" };

export interface WitnessNotices extends Notices {
  /** What `none` risks. */
  warn(text: string): void;
}

export function openWitness(choice: WitnessChoice, notices: WitnessNotices): CheckedArbiter {
  if (choice.kind === "none") return new NoWitness((text) => notices.warn(text));
  return new Witness(register(choice), notices);
}

function register(choice: Exclude<WitnessChoice, { kind: "none" }>) {
  switch (choice.kind) {
    case "etcd":
      return new EtcdRegister(choice);
    case "server":
      return new ServerRegister(choice);
    case "lock-file":
      return new LockFileRegister(choice);
  }
}
