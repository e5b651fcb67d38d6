/**
 * The part `vm` of the configuration file: what a VM is, as both hosts are told. docs/config.md tells every
 * field to the user.
 */
import { z } from "zod";
import { MAX_DISKS } from "../../codec/replication.ts";
import { absolutePath, mac, socketPath, tapName, whole } from "./fields.ts";

const boot = z.discriminatedUnion(
  "kind",
  [
    z.strictObject({
      kind: z.literal("kernel"),
      kernel: absolutePath,
      initrd: absolutePath,
      append: z.string().default(""),
    }),
    z.strictObject({ kind: z.literal("firmware") }),
  ],
  'must be "kernel" or "firmware"',
);

const disk = z.strictObject({
  image: absolutePath,
  format: z.enum(["raw", "qcow2"], 'must be "raw" or "qcow2"'),
  bus: z.enum(["virtio-blk", "virtio-scsi"], 'must be "virtio-blk" or "virtio-scsi"').default("virtio-blk"),
  virtio: z.enum(["standard", "legacy"], 'must be "standard" or "legacy"').default("standard"),
  storage: z.enum(["replicated", "shared"], 'must be "replicated" or "shared"').default("replicated"),
  durability: z.enum(["strict", "replicated"], 'must be "strict" or "replicated"').default("strict"),
});

export const vm = z
  .strictObject({
    name: z
      .string()
      .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, "must be 1 to 63 letters, digits, dots, - or _"),
    uuid: z.guid("must be a UUID; make one with uuidgen").transform((text) => text.toLowerCase()),
    machine: z.string().min(1).default("pc"),
    cpu: z.string().min(1).default("qemu64"),
    vcpus: whole(1, 255),
    topology: z
      .strictObject({ sockets: whole(1, 255), cores: whole(1, 255), threads: whole(1, 255) })
      .exactOptional(),
    memoryMiB: whole(64, 16 << 20),
    nics: z
      .array(
        z.strictObject({ mac, tap: tapName, virtio: z.enum(["standard", "legacy"]).default("standard") }),
      )
      .max(8, "must have at most 8 cards")
      .default([]),
    disks: z.array(disk).max(8, "must have at most 8 disks").default([]),
    boot,
    uefi: z.strictObject({ code: absolutePath, variables: absolutePath }).exactOptional(),
    cdroms: z
      .array(z.strictObject({ image: absolutePath.exactOptional() }))
      .max(2, "must have at most 2 drives")
      .exactOptional(),
    serial: z
      .union(
        [z.strictObject({ file: absolutePath }), z.strictObject({ socket: socketPath })],
        "must be { file: PATH } or { socket: PATH }, with an absolute path; a socket's at most 100 bytes long",
      )
      .exactOptional(),
    agent: socketPath.exactOptional(),
    vnc: socketPath.exactOptional(),
    extraArgs: z.array(z.string()).default([]),
  })
  .superRefine(({ disks, nics, topology, uefi, vcpus }, context) => {
    if (topology !== undefined && topology.sockets * topology.cores * topology.threads !== vcpus)
      context.addIssue({
        code: "custom",
        path: ["topology"],
        message: `must give vcpus (${vcpus}) when sockets, cores and threads are multiplied; they give ${topology.sockets * topology.cores * topology.threads}`,
      });
    if (uefi !== undefined && disks.length === MAX_DISKS)
      context.addIssue({
        code: "custom",
        path: ["disks"],
        message: `must have at most ${MAX_DISKS - 1} disks beside uefi.variables, which is replicated like one`,
      });
    if (uefi !== undefined && disks.some(({ image }) => image === uefi.variables))
      context.addIssue({
        code: "custom",
        path: ["uefi", "variables"],
        message: "is also the image of a disk; give the variable store a file of its own",
      });
    disks.forEach(({ image }, index) => {
      const same = disks.findIndex((other) => other.image === image);
      if (same < index)
        context.addIssue({
          code: "custom",
          path: ["disks", index, "image"],
          message: `is also that of disks[${same}]; give each disk an image of its own`,
        });
    });
    for (const field of ["mac", "tap"] as const)
      nics.forEach((nic, index) => {
        const same = nics.findIndex((other) => other[field].toLowerCase() === nic[field].toLowerCase());
        if (same < index)
          context.addIssue({
            code: "custom",
            path: ["nics", index, field],
            message: `is also that of nics[${same}]; give each card its own`,
          });
      });
  })
  .transform(({ disks, uefi, ...rest }) => ({
    ...rest,
    ...(uefi === undefined ? {} : { uefi: { code: uefi.code } }),
    disks: uefi === undefined ? disks : [...disks, variableStore(uefi.variables)],
  }));

/** The store is replicated as a disk, behind the others. */
function variableStore(image: string) {
  const words = { format: "raw", bus: "pflash", storage: "replicated", durability: "strict" } as const;
  return { image, virtio: "standard" as const, ...words };
}
