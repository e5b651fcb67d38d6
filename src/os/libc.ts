/**
 * The few system calls that Node does not offer. Everything foreign goes through here.
 *
 * Calls are synchronous and cost about half a microsecond each, so a worker thread can run a plain blocking
 * loop over them. Sizes are bytes; a failed call throws `SystemCallError` with the errno's name.
 */
import { constants } from "node:os";
import koffi from "koffi";

const library = koffi.load("libc.so.6");

export const libc = {
  socketpair: library.func("int socketpair(int domain, int type, int protocol, void *fds)"),
  syscall: library.func("long syscall(long number, long one, long two, long three)"),
  socket: library.func("int socket(int domain, int type, int protocol)"),
  bind: library.func("int bind(int fd, const void *address, uint32_t length)"),
  if_nametoindex: library.func("unsigned int if_nametoindex(const char *name)"),
  setsockopt: library.func("int setsockopt(int fd, int level, int name, const void *value, uint32_t length)"),
  recv: library.func("intptr_t recv(int fd, void *buffer, size_t length, int flags)"),
  recvfrom: library.func(
    "intptr_t recvfrom(int fd, void *buffer, size_t length, int flags, void *address, void *addressLength)",
  ),
  send: library.func("intptr_t send(int fd, const void *buffer, size_t length, int flags)"),
  sendmsg: library.func("intptr_t sendmsg(int fd, const void *message, int flags)"),
  poll: library.func("int poll(void *fds, unsigned long count, int timeoutMs)"),
  shutdown: library.func("int shutdown(int fd, int how)"),
  close: library.func("int close(int fd)"),
  sync_file_range: library.func(
    "int sync_file_range(int fd, int64_t offset, int64_t length, uint32_t flags)",
  ),
  ioctl: library.func("int ioctl(int fd, unsigned long request, void *argument)"),
  fcntl: library.func("int fcntl(int fd, int command, void *argument)"),
  fallocate: library.func("int fallocate(int fd, int mode, int64_t offset, int64_t length)"),
  mmap: library.func(
    "void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)",
  ),
  munmap: library.func("int munmap(void *address, size_t length)"),
  clock_gettime: library.func("int clock_gettime(int clock, void *time)"),
  memcmp: library.func("int memcmp(const void *a, const void *b, size_t length)"),
};

const errnoNames = new Map<number, string>(
  Object.entries(constants.errno).map(([name, value]) => [value as number, name]),
);

export class SystemCallError extends Error {
  readonly code: string;
  constructor(call: string, errno: number) {
    const code = errnoNames.get(errno) ?? `errno ${errno}`;
    super(`${call} failed: ${code}`);
    this.name = "SystemCallError";
    this.code = code;
  }
}

/** Passes a result through, or throws what errno says. Must be called straight after the call it checks. */
export function checked(call: string, result: number | bigint): number {
  const value = Number(result);
  if (value < 0) throw new SystemCallError(call, koffi.errno());
  return value;
}

/** Like `checked`, but a call that was interrupted or would block gives -1. */
export function checkedOrAgain(call: string, result: number | bigint): number {
  const value = Number(result);
  if (value >= 0) return value;
  const errno = koffi.errno();
  if (errno === constants.errno.EINTR || errno === constants.errno.EAGAIN) return -1;
  throw new SystemCallError(call, errno);
}

/** The kernel's number of a network device. @throws an Error that names a device which is not there */
export function deviceIndex(device: string): number {
  const index = libc.if_nametoindex(device) as number;
  if (index === 0) throw new Error(`there is no network device "${device}"`);
  return index;
}
