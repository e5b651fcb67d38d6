/**
 * Folders of programs that an ordinary user's PATH lacks, and that of a root by `su`: mkfs.ext4, losetup,
 * debugfs and others live there.
 */
const FOLDERS = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/** Adds to `environment`, behind what is there, what of them is missing. */
export function completeSearchPath(environment: { PATH?: string | undefined }): void {
  const present = (environment.PATH ?? "").split(":").filter((folder) => folder !== "");
  environment.PATH = [...present, ...FOLDERS.filter((folder) => !present.includes(folder))].join(":");
}
