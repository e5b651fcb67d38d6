/** In place of `src/os/socket.ts`: descriptors mean nothing here. */
export function closeDescriptor(): void {}
