/**
 * Claims as files in a directory that both hosts have mounted; NFS will do. Each is written under a name of
 * its own, put on stable storage, and linked to `<vm>.<generation>`: of two who link to one name, one
 * succeeds, on the server. Synchronous: a mount whose server is gone blocks whoever touches it, so this is
 * the work of a process of its own (lock-file-process.ts).
 */
import { randomUUID } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Claim } from "../core/arbiter.ts";
import { type ClaimOfVm, claimLine, parseClaimLine } from "./claim-lines.ts";
import { generationOf, generationText } from "./register.ts";

/**
 * Says that this is the shared directory, and not the empty one under it when it is not mounted: there each
 * host would grant itself. Made once, by whoever sets the directory up.
 */
export const MARK = "remus-witness";

export class LockDirectory {
  private readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  /** As `Register.claim`. */
  claim(vmId: string, claim: Claim): Claim {
    return this.withFile(claimLine([{ vm: vmId, ...claim }]), (file) => {
      const before = this.read(vmId);
      if (before !== undefined && before.generation >= claim.generation) return before;
      try {
        linkSync(file, this.file(vmId, claim));
      } catch (error) {
        // Somebody was quicker; or we were, and the server's answer to that was lost. What the file holds
        // tells.
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
      const after = this.read(vmId);
      if (after === undefined || after.generation < claim.generation)
        throw new Error(`${this.file(vmId, claim)} was linked and is not there`);
      return after;
    });
  }

  /** As `Register.newest`. */
  newest(vmId: string): Claim | undefined {
    return this.withFile(Buffer.alloc(0), () => this.read(vmId));
  }

  /** As `Register.check`: writes and links as a claim would be. */
  check(vmId: string): void {
    const line = claimLine([{ vm: vmId, generation: 0, host: "x".repeat(253) }]);
    this.withFile(line, (file) => {
      const linked = `${file}.link`;
      try {
        linkSync(file, linked);
      } finally {
        rmSync(linked, { force: true });
      }
      this.read(vmId);
    });
  }

  /**
   * Runs `use` with a file of these contents in the directory. A client of NFS that changes a directory
   * learns whether others have, too; without that it may show a list that is a minute old.
   */
  private withFile<T>(contents: Buffer, use: (path: string) => T): T {
    if (!existsSync(join(this.path, MARK)))
      throw new Error(
        `${join(this.path, MARK)} is not there: the directory is not mounted, or new. In a new one, make that file, once, from one host`,
      );
    const path = join(this.path, `.${randomUUID()}`);
    try {
      writeFileSync(path, contents, { flag: "wx", mode: 0o644, flush: true });
      return use(path);
    } finally {
      rmSync(path, { force: true });
    }
  }

  private read(vmId: string): Claim | undefined {
    const generations = readdirSync(this.path)
      .filter((name) => name.startsWith(`${vmId}.`))
      .map((name) => generationOf(name.slice(vmId.length + 1)) ?? this.stranger(name));
    if (generations.length === 0) return undefined;
    this.sync();
    const generation = Math.max(...generations);
    const path = this.file(vmId, { generation });
    const claim = parseClaimLine(readFileSync(path), path);
    if (claim.vm !== vmId || claim.generation !== generation)
      throw new Error(`${path} holds the claim of another file; no other program may write there`);
    const { vm: _, ...newest } = claim;
    return newest;
  }

  private stranger(name: string): never {
    throw new Error(`${join(this.path, name)} is no claim; no other program may write there`);
  }

  /** So that nobody is told of a name that may be gone after a power failure. */
  private sync(): void {
    const directory = openSync(this.path, "r");
    try {
      fsyncSync(directory);
    } finally {
      closeSync(directory);
    }
  }

  private file(vmId: string, { generation }: Pick<ClaimOfVm, "generation">): string {
    return join(this.path, `${vmId}.${generationText(generation)}`);
  }
}
