/**
 * The taps of a VM that does not run here yet. They are kept down while it is a standby: nobody reads them, and a queue full of
 * last week's broadcasts would have no room for what a client sends at failover.
 *
 * When the primary goes silent they are opened a little before anything is decided, so that what clients send again in the meantime waits
 * here for the guest instead of being lost: TCP would try the next time only after twice as long.
 */
import { execFile } from "node:child_process";

export interface StandbyNic {
  readonly mac: string;
  readonly tap: string;
}

export class StandbyTaps {
  private readonly nics: readonly StandbyNic[];
  private readonly warn: (text: string) => void;
  private wanted: "parked" | "open" = "open";
  private working: Promise<void> = Promise.resolve();

  constructor(nics: readonly StandbyNic[], warn: (text: string) => void) {
    this.nics = nics;
    this.warn = warn;
  }

  /** Down: frames for the guest are dropped at once. */
  park(): Promise<void> {
    return this.become("parked", ({ tap }) => `ip link set dev '${tap}' down`);
  }

  /**
   * Up, and this host's bridge knows that the guest is behind the tap: it has learnt the guest's address on its uplink, from where
   * frames for it come, and would drop them. Resolves when that is done; what cannot be done is logged, and costs time only.
   */
  open(): Promise<void> {
    return this.become(
      "open",
      ({ mac, tap }) =>
        `ip link set dev '${tap}' up && bridge fdb replace ${mac} dev '${tap}' master dynamic`,
    );
  }

  private become(wanted: "parked" | "open", command: (nic: StandbyNic) => string): Promise<void> {
    if (this.wanted === wanted) return this.working;
    this.wanted = wanted;
    const script = this.nics.map(command).join("; ");
    this.working = this.working.then(
      () =>
        new Promise((resolve) => {
          execFile("sh", ["-c", script], (_error, _stdout, stderr) => {
            if (stderr.trim() !== "") this.warn(`taps of the standby: ${stderr.trim()}`);
            resolve();
          });
        }),
    );
    return this.working;
  }
}
