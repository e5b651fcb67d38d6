/**
 * No comment is wider than a line of code may be (biome.json): the formatter leaves comments alone. Ends with
 * status 1 if one is.
 */
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";

const COLUMNS = 110;

process.chdir(join(import.meta.dirname, ".."));
const wide = globSync(["src/**/*.ts", "test/**/*.ts", "bench/**/*.ts"]).flatMap((file) =>
  readFileSync(file, "utf8")
    .split("\n")
    .flatMap((line, index) =>
      /^\s*(\/\/|\/\*|\*)/.test(line) && line.length > COLUMNS
        ? [`${file}:${index + 1}: a comment of ${line.length} columns; fill it to ${COLUMNS}`]
        : [],
    ),
);
for (const line of wide) console.log(line);
process.exit(wide.length === 0 ? 0 : 1);
