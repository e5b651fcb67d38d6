/**
 * What becomes of the paths of the replication link where there are several. One of two lost decides nothing:
 * the VM stays protected over the other. But who has lost it lives on one failure less than they believe, so
 * its loss and return are told.
 */
import { type Address, at } from "../../link/link-error.ts";
import type { PathEvent, Session } from "../../link/session.ts";
import type { Context } from "../context.ts";
import type { PathStatus } from "../control/status.ts";

export class PathWatch {
  private readonly context: Pick<Context, "control" | "log">;
  private readonly addresses: readonly Address[];
  /** Paths that are down and were told of; they may be so from one session to the next. */
  private readonly missing = new Set<number>();

  constructor(context: Pick<Context, "control" | "log">, addresses: readonly Address[]) {
    this.context = context;
    this.addresses = addresses;
  }

  /** Without a session there is none. */
  summary(session: Session | undefined): PathStatus[] {
    if (session === undefined || session.closed !== undefined) return [];
    return session.paths.map(({ path, up, since, carries }) => ({
      address: at(this.addresses[path]!),
      up,
      ...(since === undefined ? {} : { since: since.toISOString() }),
      carries,
    }));
  }

  /** In a session that has just begun, all paths that can be had will soon be there. */
  heard(session: Session): void {
    for (const { path, up } of session.paths)
      if (up) this.told({ path, up, reason: "a session began over it" });
  }

  told({ path, up, reason }: PathEvent): void {
    if (up && !this.missing.delete(path)) return;
    if (!up) this.missing.add(path);
    const { control, log } = this.context;
    const count = this.addresses.length;
    const name = `path ${path + 1} of ${count} (${at(this.addresses[path]!)})`;
    const text = up
      ? `${name} is back: ${reason}`
      : `${name} is lost: ${reason}. While another one is there, the VM stays protected`;
    log[up ? "info" : "warn"](text);
    control.publish({ kind: "alarm", about: "path", path: path + 1, raised: !up, text });
  }
}
