/**
 * In place of what looks at a running VM for changes: devices that somebody has plugged in over another
 * monitor.
 */
import type { SimQmp } from "../world/qemu.ts";

export const CHANGE_EVENTS = ["DEVICE_DELETED", "DEVICE_TRAY_MOVED"];

interface LiveLook {
  readonly plugged: number;
}

export async function lookForChanges({ qemu }: SimQmp): Promise<LiveLook> {
  return await qemu.command(() => ({ plugged: qemu.plugged }), false);
}

export function changeBetween(agreed: LiveLook, now: LiveLook): string | undefined {
  return agreed.plugged === now.plugged ? undefined : "a device was plugged in or taken out";
}
