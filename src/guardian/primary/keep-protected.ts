/**
 * Protects the VM again after protection was lost, as core/keep-protected decides. A try that fails like the
 * one before says nothing new: it is not told again, and an alarm stands for as long as the VM has no backup.
 */
import {
  type Keeping,
  type KeepSettings,
  keepStepped,
  keepTried,
  startKeeping,
  stopKeeping,
  triesNow,
} from "../../core/keep-protected.ts";
import type { PrimaryState } from "../../core/primary-protocol.ts";
import type { ControlSocket } from "../control/socket.ts";
import type { Log } from "../log.ts";

export interface KeepProtectedOptions {
  readonly settings: KeepSettings;
  /** Protection is wanted from the start on. */
  readonly wanted: boolean;
  readonly log: Log;
  readonly control: Pick<ControlSocket, "publish">;
  /** Asks for protection, as an order would; rejects with why it could not be. */
  readonly protect: () => Promise<void>;
}

export class KeepProtected {
  private readonly options: KeepProtectedOptions;
  private keeping: Keeping;
  private trying = false;
  private rests = false;
  private alarmed = false;
  /** Why the VM has no backup, as it was told last. */
  private told: string | undefined;

  constructor(options: KeepProtectedOptions) {
    this.options = options;
    this.keeping = startKeeping(options.wanted, performance.now(), options.settings);
  }

  /** In `status`. */
  get wanted(): boolean {
    return this.keeping.wanted;
  }

  /** A try of ours is under way. */
  get isTrying(): boolean {
    return this.trying;
  }

  /** To be called after every step of core. */
  stepped(state: PrimaryState): void {
    this.keeping = keepStepped(this.keeping, state, performance.now(), this.options.settings);
    const { phase, protectedSinceMs, wanted } = this.keeping;
    if (protectedSinceMs !== undefined && phase === "protected") this.alarm(false, "the VM is protected");
    else if (wanted && phase === "unprotected" && !this.alarmed) this.alarm(true, this.why);
  }

  /** This host is about to be left: nothing is tried any more. The wish stays. */
  rest(): void {
    this.rests = true;
  }

  tick(): void {
    const now = performance.now();
    if (this.rests || this.trying || !triesNow(this.keeping, now)) return;
    this.keeping = keepTried(this.keeping, now, this.options.settings);
    this.trying = true;
    this.options
      .protect()
      .catch((error: Error) => this.failed(error.message))
      .finally(() => {
        this.trying = false;
      });
  }

  /** Somebody has said stop. */
  stop(): void {
    this.keeping = stopKeeping(this.keeping);
    this.told = undefined;
    this.alarm(false, "protection was stopped");
  }

  /** Whether a report of core's says no more than what was told of an earlier try. */
  isOldNews(level: "info" | "warn" | "error", text: string, phase: PrimaryState["phase"]): boolean {
    if (!this.trying || !["connecting", "unprotected"].includes(phase)) return false;
    if (level === "info") return this.told !== undefined;
    const old = this.told === text;
    this.told = text;
    return old;
  }

  private failed(message: string): void {
    if (!this.keeping.wanted) return;
    if (this.told?.includes(message) === true) return;
    this.told = message;
    this.options.log.warn(`protecting the VM again: ${message}. It is tried on`);
  }

  private get why(): string {
    const seconds = (this.options.settings.retryMs / 1000).toFixed(1);
    return `the VM runs without a backup; protection is tried every ${seconds} s, and less often if it does not last`;
  }

  private alarm(raised: boolean, text: string): void {
    if (raised === this.alarmed) return;
    this.alarmed = raised;
    if (!raised) this.told = undefined;
    const { control, log } = this.options;
    log[raised ? "warn" : "info"](text);
    control.publish({ kind: "alarm", about: "protection", raised, text });
  }
}
