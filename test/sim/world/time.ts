/**
 * Simulated time: a queue of events, and the processes to which they happen. A process has a clock that
 * drifts, can stand still (SIGSTOP) and die. While an event of a process is dealt with, Node's timers and
 * clocks are that process's: production code sees nothing of all this.
 */

interface Event {
  readonly at: number;
  readonly order: number;
  readonly act: () => void;
}

/** A binary heap, the earliest first; of two at one time, the one that was put in first. */
export class Time {
  /** Milliseconds since the world began. */
  now = 0;
  events = 0;
  private readonly heap: Event[] = [];
  private order = 0;

  after(delayMs: number, act: () => void): void {
    this.at(this.now + Math.max(0, delayMs), act);
  }

  at(at: number, act: () => void): void {
    const { heap } = this;
    const event: Event = { at: Math.max(at, this.now), order: this.order++, act };
    let i = heap.length;
    heap.push(event);
    while (i > 0) {
      const up = (i - 1) >> 1;
      if (!before(event, heap[up]!)) break;
      heap[i] = heap[up]!;
      i = up;
    }
    heap[i] = event;
  }

  /** Lets happen what happens next. False if nothing ever will. */
  step(): boolean {
    const { heap } = this;
    const first = heap[0];
    if (first === undefined) return false;
    const last = heap.pop()!;
    if (heap.length > 0) {
      let i = 0;
      for (;;) {
        let down = 2 * i + 1;
        if (down >= heap.length) break;
        if (down + 1 < heap.length && before(heap[down + 1]!, heap[down]!)) down++;
        if (!before(heap[down]!, last)) break;
        heap[i] = heap[down]!;
        i = down;
      }
      heap[i] = last;
    }
    this.now = first.at;
    this.events++;
    first.act();
    return true;
  }
}

function before(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/**
 * Runs what promises have made ready, now and not when the stack is empty, as a turn of Node's event loop
 * does. A turn through `setImmediate` would cost more than all else in an event.
 */
const drain = (process as unknown as { _tickCallback(): void })._tickCallback.bind(process);

let running: SimProcess | undefined;

/** The process to which the present event happens. */
export function current(): SimProcess {
  if (running === undefined) throw new Error("simulator: production code ran outside of any process");
  return running;
}

export function currentOrNone(): SimProcess | undefined {
  return running;
}

export interface ClockOfHost {
  /** Milliseconds of this host's CLOCK_BOOTTIME. */
  monotonicMs(): number;
  /** The same of CLOCK_MONOTONIC, which stands while the host is suspended. */
  activeMs(): number;
  /** How many of the world's milliseconds pass in so many of the host's. */
  worldMs(ms: number): number;
  wallMs(): number;
}

/** What Node calls a Timeout or an Immediate. */
export class SimTimer {
  cancelled = false;
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }
  hasRef(): boolean {
    return true;
  }
}

interface Waiting {
  /** When it was due. */
  dueMs: number;
  readonly act: () => void;
  readonly isTimer: boolean;
}

export class SimProcess {
  readonly name: string;
  alive = true;
  /** Stands still, as by SIGSTOP. */
  stopped = false;
  private readonly time: Time;
  private readonly clock: ClockOfHost;
  private readonly onError: (error: unknown, process: SimProcess) => void;
  private backlog: Waiting[] = [];
  /** The host is suspended since: its timers stand, too. */
  private suspendedAtMs: number | undefined;
  private readonly atDeath: (() => void)[] = [];

  constructor(
    name: string,
    time: Time,
    clock: ClockOfHost,
    onError: (error: unknown, process: SimProcess) => void,
  ) {
    this.name = name;
    this.time = time;
    this.clock = clock;
    this.onError = onError;
  }

  monotonicMs(): number {
    return this.clock.monotonicMs();
  }

  activeMs(): number {
    return this.clock.activeMs();
  }

  wallMs(): number {
    return this.clock.wallMs();
  }

  /** Something happens to this process in `delayMs` of the world's time. */
  post(delayMs: number, act: () => void): void {
    this.time.after(delayMs, () => this.happen({ act, dueMs: this.time.now, isTimer: false }));
  }

  /** A promise that settles so much later, in an event of this process. Never if it dies. */
  later(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.post(delayMs, resolve));
  }

  setTimer(act: () => void, ms: number): SimTimer {
    const timer = new SimTimer();
    const due = { act: () => timer.cancelled || act(), dueMs: 0, isTimer: true };
    this.time.after(this.clock.worldMs(Math.max(1, ms)), () => timer.cancelled || this.happen(due));
    return timer;
  }

  setInterval(act: () => void, ms: number): SimTimer {
    const timer = new SimTimer();
    const due = {
      act: () => {
        if (timer.cancelled) return;
        // As Node: the next one counts from the start of this one.
        again();
        act();
      },
      dueMs: 0,
      isTimer: true,
    };
    const again = () =>
      this.time.after(this.clock.worldMs(Math.max(1, ms)), () => timer.cancelled || this.happen(due));
    again();
    return timer;
  }

  /** Calls `act` at once, as code of this process. */
  run(act: () => void): void {
    const before = running;
    running = this;
    try {
      act();
      drain();
    } catch (error) {
      this.onError(error, this);
    } finally {
      running = before;
    }
  }

  stop(): void {
    this.stopped = true;
  }

  /** As the host is suspended: what is due meanwhile is due so much later. */
  suspend(): void {
    this.stop();
    this.suspendedAtMs = this.time.now;
  }

  /** @param timersFirst whether what was due meanwhile comes before what has arrived */
  resume(timersFirst: boolean): void {
    if (!this.stopped) return;
    this.stopped = false;
    const waiting = this.backlog;
    this.backlog = [];
    const timers = waiting.filter(({ isTimer }) => isTimer);
    const others = waiting.filter(({ isTimer }) => !isTimer);
    const { now } = this.time;
    const { suspendedAtMs } = this;
    this.suspendedAtMs = undefined;
    for (const one of timersFirst ? [...timers, ...others] : [...others, ...timers]) {
      const stoodMs = one.isTimer && suspendedAtMs !== undefined ? one.dueMs - suspendedAtMs : 0;
      this.time.at(now + stoodMs, () => this.happen(one));
    }
  }

  kill(): void {
    if (!this.alive) return;
    this.alive = false;
    this.backlog = [];
    for (const one of this.atDeath.splice(0)) one();
  }

  onDeath(act: () => void): void {
    if (this.alive) this.atDeath.push(act);
    else act();
  }

  private happen(one: Waiting): void {
    if (!this.alive) return;
    if (this.stopped) {
      one.dueMs = this.time.now;
      this.backlog.push(one);
    } else this.run(one.act);
  }
}

/** What happens to a process in order: messages of one thread, bytes of one stream. */
export class Lane {
  private readonly process: SimProcess;
  private readonly time: Time;
  private lastMs = 0;

  constructor(process: SimProcess, time: Time) {
    this.process = process;
    this.time = time;
  }

  /** As `SimProcess.post`, and not before what was posted before. */
  post(delayMs: number, act: () => void): void {
    this.lastMs = Math.max(this.lastMs, this.time.now + delayMs);
    this.process.post(this.lastMs - this.time.now, act);
  }
}

/** Puts the present process's clocks and timers in place of Node's. The simulator itself uses neither. */
export function installClocks(): void {
  const give = (name: string, value: unknown) =>
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  const call = (act: (...args: unknown[]) => void, args: unknown[]) => () => act(...args);
  give("setTimeout", (act: () => void, ms = 0, ...args: unknown[]) =>
    current().setTimer(call(act, args), ms),
  );
  give("setInterval", (act: () => void, ms = 0, ...args: unknown[]) =>
    current().setInterval(call(act, args), ms),
  );
  give("setImmediate", (act: () => void, ...args: unknown[]) => {
    const timer = new SimTimer();
    const process = current();
    process.post(0, () => timer.cancelled || call(act, args)());
    return timer;
  });
  const clear = (timer: SimTimer | undefined) => {
    if (timer !== undefined && timer !== null) timer.cancelled = true;
  };
  for (const name of ["clearTimeout", "clearInterval", "clearImmediate"]) give(name, clear);
  give("performance", { now: () => current().activeMs() });
  const wallMs = () => running?.wallMs() ?? 0;
  Date.now = wallMs;
  give(
    "Date",
    class extends Date {
      constructor(...args: [] | [number | string]) {
        if (args.length === 0) super(wallMs());
        else super(...args);
      }
    },
  );
  AbortSignal.timeout = (ms) => {
    const controller = new AbortController();
    current().setTimer(() => controller.abort(new Error("timed out")), ms);
    return controller.signal;
  };
}
