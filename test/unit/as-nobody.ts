/**
 * Programs of this project run by the user nobody. The folders above the project may be closed to that user,
 * as /root is; so in a mount namespace it gets a second place, which is open. Whether a program may be
 * started there does not tell whether the files beside it may be read: setpriv of util-linux 2.41 opens the
 * program before it becomes nobody.
 */
import { join, relative } from "node:path";

const project = join(import.meta.dirname, "../..");
const place = "/mnt/project";

/** To become nobody. Say which groups, too. */
export const asNobody = ["setpriv", "--reuid", "65534", "--regid", "65534"];

/** For a shell in a mount namespace of its own: /mnt is empty but for the project. */
export const openProject =
  `mount -t tmpfs -o mode=0755 tmpfs /mnt && mkdir ${place} && ` +
  `mount --bind '${project.replaceAll("'", "'\\''")}' ${place}`;

/** Where nobody finds a file of the project. */
export const openPath = (path: string) => join(place, path);

/** This Node, which may be one of the project's. */
export const openNode = (): string => {
  const inProject = relative(project, process.execPath);
  return inProject.startsWith("..") ? process.execPath : openPath(inProject);
};
