/**
 * The messages of QEMU's COLO migration, be32 each (QEMU qapi/migration.json, COLOMessage). We speak as the
 * secondary.
 */

export const COLO = {
  READY: 0,
  REQUEST: 1,
  REPLY: 2,
  VMSTATE_SEND: 3,
  VMSTATE_SIZE: 4,
  RECEIVED: 5,
  LOADED: 6,
} as const;

/** A message as it goes over the socket. */
export function coloMessage(message: number): Uint8Array {
  return Uint8Array.of(0, 0, 0, message);
}

/**
 * The return path's last message: be16 type SHUT, be16 length, be32 status 0. A QEMU that has opened a return
 * path (11.0 and later) reads nothing else from us before it.
 */
export const SHUT_RETURN_PATH: Uint8Array = Uint8Array.of(0, 1, 0, 4, 0, 0, 0, 0);

/** Says what a message number means, for errors. */
export function coloName(message: number): string {
  return Object.entries(COLO).find(([, value]) => value === message)?.[0] ?? `0x${message.toString(16)}`;
}
