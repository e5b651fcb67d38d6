/** The two answers to an extra argument that is not harmless: it is refused, or the user is told of it. */
import type { Argument } from "./arguments.ts";
import { error, type Finding, warning } from "./traps.ts";

/** `undefined`: nothing to say. */
export type Rule = (argument: Argument) => Finding | undefined;

/** @param what goes on from the argument; @param todo a sentence */
export function refused(code: string, what: string, todo: string): (argument: Argument) => Finding {
  return ({ text }) => error(code, `vm.extraArgs: "${text}" ${what}. ${todo}`);
}

/** A way out that Remus does not hold, which is the user's to choose. */
export function unheld(what: string): (argument: Argument) => Finding {
  return ({ text }) =>
    warning(
      "unheld-output",
      `vm.extraArgs: "${text}" ${what}, and Remus holds back only network output. ` +
        "Whoever is at the other end may see what a failover takes back.",
    );
}

export function unknown(kind: string): (argument: Argument) => Finding {
  return refused(
    "unknown-argument",
    `is a ${kind} that Remus does not know, so it cannot say what of it would leave the VM unheld, or be lost in a failover`,
    "Leave it out, or report that you need it.",
  );
}
