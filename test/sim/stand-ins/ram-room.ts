/** In place of `src/guardian/primary/ram-room.ts`: memory is no file here. */
export class RamRoom {
  begin(): void {}
  close(): void {}
}
