/**
 * In place of `src/guardian/control/socket.ts`: the operator gives orders in person, and hears what is told.
 */
import type { Ear } from "../world/host.ts";
import { theWorld } from "../world/present.ts";
import { current } from "../world/time.ts";

export class ControlSocket {
  private readonly host = theWorld().hostOf(current());

  async take(orders: Ear["orders"]): Promise<void> {
    this.host.ear = { orders };
  }

  publish(event: Readonly<Record<string, unknown>>): void {
    if (event.kind === "phase") theWorld().phase(this.host.name, String(event.role), String(event.phase));
  }

  close(): void {}
}
