/**
 * The process in which `LockFileRegister` does its work: it may be killed when the storage does not answer.
 */
import { LockDirectory } from "./lock-directory.ts";
import type { LockFileAnswer, LockFileQuestion } from "./lock-file.ts";

const directory = new LockDirectory(process.argv[2]!);

process.on("message", ({ id, vmId, claim, check }: LockFileQuestion) => {
  let answer: LockFileAnswer;
  try {
    if (check === true) directory.check(vmId);
    const newest = claim === undefined ? directory.newest(vmId) : directory.claim(vmId, claim);
    answer = newest === undefined ? { id } : { id, newest };
  } catch (error) {
    answer = { id, error: (error as Error).message };
  }
  process.send!(answer);
});
process.once("disconnect", () => process.exit());
