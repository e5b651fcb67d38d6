// What a session's owner hears of its paths: each loss and each return, once.

/**
 * A path that closes is often the first of all: its loss is told when the session still lives after that
 * time.
 */
const SOON_MS = 20;

interface Told {
  readonly path: number;
  readonly up: boolean;
  readonly reason: string;
}

export class PathEvents {
  readonly #tell: (told: Told) => void;
  /** What was last told of each path. */
  readonly #told = new Map<number, Told>();
  readonly #timers = new Map<number, { readonly timer: NodeJS.Timeout; readonly now: () => void }>();

  constructor(tell: (told: Told) => void) {
    this.#tell = tell;
  }

  up(path: number, reason: string): void {
    this.#timers.get(path)?.now();
    if (this.#told.get(path)?.up !== true) this.#now({ path, up: true, reason });
  }

  /** @param anew tell it of a path that is down already, if the reason is another one */
  down(path: number, reason: string, anew = false): void {
    const told = this.#told.get(path);
    if (told?.up !== false || (anew && told.reason !== reason)) this.#now({ path, up: false, reason });
  }

  /** Unless the session is over soon. */
  soonDown(path: number, reason: string): void {
    clearTimeout(this.#timers.get(path)?.timer);
    const now = (): void => {
      clearTimeout(timer);
      this.#timers.delete(path);
      this.down(path, reason);
    };
    const timer = setTimeout(now, SOON_MS);
    this.#timers.set(path, { timer, now });
  }

  /** The session is over; of its paths nothing more is told. */
  stop(): void {
    for (const { timer } of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #now(told: Told): void {
    this.#told.set(told.path, told);
    this.#tell(told);
  }
}
