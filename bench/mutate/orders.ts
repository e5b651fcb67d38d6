/**
 * The order of effects is a rule of the protocol (docs/specs/protocol.md: "effects, in this order"), and
 * StrykerJS does not change orders. So here: in every list of effects in `src/core`, each two change places,
 * one pair at a time, and the core's tests must notice. Reports are left where they are: no rule says when
 * they come.
 */
import { exec } from "node:child_process";
import { cpSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import ts from "typescript";
import { COPIED_FILES, TEMPORARY, TEST_COMMAND } from "./tests.ts";

interface Swap {
  readonly file: string;
  /** From 1. */
  readonly line: number;
  readonly first: string;
  readonly second: string;
  /** The whole file with the two changed. */
  readonly changed: string;
}

const REPORT = /^(info|warn|error|report)\(/;

/** How many pairs there were; and those whose change of places no test has noticed, a line each. */
export async function swapEffects(files: readonly string[]): Promise<{ pairs: number; unnoticed: string[] }> {
  const swaps = files.flatMap(swapsOf);
  const left = [...swaps];
  const unnoticed: Swap[] = [];
  const work = async (): Promise<void> => {
    if (left.length === 0) return;
    const copy = copyRepository();
    for (let next = left.shift(); next !== undefined; next = left.shift())
      if (await testsPass(copy, next)) unnoticed.push(next);
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  return {
    pairs: swaps.length,
    unnoticed: unnoticed.map(({ file, line, first, second }) => `${file}:${line}: ${second} before ${first}`),
  };
}

function swapsOf(file: string): Swap[] {
  const text = readFileSync(file, "utf8");
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const lists: ts.Expression[][] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isArrayLiteralExpression(node))
      lists.push(node.elements.filter((one) => !isValue(one) && !REPORT.test(one.getText())));
    ts.forEachChild(node, visit);
  };
  visit(source);
  return lists.flatMap((list) =>
    list.flatMap((one, n) =>
      list.slice(n + 1).map((other) => ({
        file,
        line: source.getLineAndCharacterOfPosition(one.getStart()).line + 1,
        first: one.getText(),
        second: other.getText(),
        changed:
          text.slice(0, one.getStart()) +
          other.getText() +
          text.slice(one.end, other.getStart()) +
          one.getText() +
          text.slice(other.end),
      })),
    ),
  );
}

/**
 * An effect is made where it stands and has a type, or comes out of a list; a list of strings, say, is no
 * list of effects.
 */
function isValue(one: ts.Expression): boolean {
  return (
    (ts.isObjectLiteralExpression(one) &&
      !one.properties.some((property) => property.name?.getText() === "type")) ||
    ts.isLiteralExpression(one) ||
    ts.isTemplateExpression(one) ||
    ts.isPropertyAccessExpression(one) ||
    one.getText() === "undefined"
  );
}

/** Goes with this process, also when that is told to end. */
function copyRepository(): string {
  mkdirSync(TEMPORARY, { recursive: true });
  const copy = mkdtempSync(join(TEMPORARY, "orders-"));
  process.once("exit", () => rmSync(copy, { recursive: true, force: true }));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
  for (const file of globSync([...COPIED_FILES])) {
    mkdirSync(dirname(join(copy, file)), { recursive: true });
    cpSync(file, join(copy, file));
  }
  return copy;
}

async function testsPass(copy: string, { file, changed }: Swap): Promise<boolean> {
  writeFileSync(join(copy, file), changed);
  try {
    return await new Promise((resolve) => {
      exec(TEST_COMMAND, { cwd: copy }, (failure) => resolve(failure === null));
    });
  } finally {
    cpSync(file, join(copy, file));
  }
}
