/** What an operator can do about a file that cannot be had or written, by the kernel's error. */
const REMEDIES: Readonly<Record<string, string>> = {
  ENOSPC: "make room on its file system",
  EDQUOT: "raise the quota there, or make room",
  EROFS: "its file system is mounted read-only: look why in the kernel's log, and remount it for writing",
  EACCES: "give this guardian's user the right to write there",
  EPERM: "give this guardian's user the right to write there",
  EMFILE: "raise this process's limit of open files (LimitNOFILE= of its unit, ulimit -n)",
  ENFILE: "raise this host's limit of open files (sysctl fs.file-max)",
  EIO: "look at this host's storage: the kernel's log says more",
};

/** The end of a sentence. */
export function whatToDo(error: Error): string {
  return REMEDIES[(error as NodeJS.ErrnoException).code ?? ""] ?? "look at the file system there";
}
