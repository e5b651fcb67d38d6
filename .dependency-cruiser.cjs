// The layers of src/ (ARCHITECTURE.md, "Layers"). A file may import its own folder and what the table allows.
const allowed = {
  core: [],
  codec: ["core"],
  os: [],
  hypervisor: ["codec", "core", "memory", "os"],
  memory: ["codec", "core", "os"],
  disk: ["codec", "core", "memory", "os"],
  net: ["codec", "core", "memory", "os", "hypervisor"],
  link: ["codec", "core", "os"],
  witness: ["core", "os"],
  guardian: ["hypervisor", "memory", "disk", "net", "link", "witness", "codec", "core", "os"],
  lab: ["guardian", "hypervisor", "memory", "os", "codec", "core"],
};
const rules = Object.entries(allowed).map(([layer, below]) => ({
  name: `layer-${layer}`,
  comment: `src/${layer} may import only: ${[layer, ...below].join(", ")}`,
  severity: "error",
  from: { path: `^src/${layer}/` },
  to: { path: "^src/", pathNot: `^src/(${[layer, ...below].join("|")})/` },
}));
module.exports = {
  forbidden: [
    ...rules,
    { name: "no-circles", severity: "error", from: {}, to: { circular: true } },
    {
      name: "pure-core-and-codec",
      comment: "core and codec do no I/O: no Node built-in that touches the world, no package",
      severity: "error",
      from: { path: "^src/(core|codec)/" },
      to: { pathNot: "^(src/|zlib$|node:zlib$)" },
    },
    { name: "not-to-tests", severity: "error", from: { path: "^src/" }, to: { path: "^test/" } },
    { name: "unresolvable", severity: "error", from: {}, to: { couldNotResolve: true } },
  ],
  options: {
    tsConfig: { fileName: "tsconfig.json" },
    tsPreCompilationDeps: true,
    doNotFollow: { path: "node_modules" },
    enhancedResolveOptions: { extensions: [".ts", ".js", ".json"] },
  },
};
