/** A block node of QEMU that is an NBD client, over a socket that it is given. */
import type { Qmp } from "./qmp.ts";

/**
 * Adds the node. QEMU gets a copy of `fd` and speaks with the server at its other end before it answers, its
 * main loop waiting. Fails with QEMU's word for what is wrong.
 */
export async function addEndpointNode(
  qmp: Qmp,
  endpoint: { readonly node: string; readonly exportName: string; readonly fd: number },
): Promise<void> {
  const { node, exportName, fd } = endpoint;
  await qmp.passDescriptor(node, fd);
  try {
    await qmp.execute("blockdev-add", {
      driver: "nbd",
      "node-name": node,
      server: { type: "fd", str: node },
      export: exportName,
    });
  } catch (error) {
    // It may not have come so far as to use it.
    await qmp.execute("closefd", { fdname: node }).catch(() => {});
    throw error;
  }
}
