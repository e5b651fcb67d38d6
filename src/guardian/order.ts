/**
 * `npm run order -- SOCKET COMMAND [ARGUMENTS]`: gives a guardian one order over its control socket
 * (docs/specs/control.md), waits until it is done, and prints the answer. ARGUMENTS is a JSON object.
 *
 * Exit status: 0 done, 1 refused or failed, 2 there is no guardian, 64 wrong use.
 */
import { ControlClient, OrderFailed } from "./control/client.ts";

const [path, command, given = "{}", ...tooMany] = process.argv.slice(2);

function end(status: number, line: string): never {
  process.stderr.write(`${line}\n`);
  process.exit(status);
}

function readArguments(): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(given);
    if (typeof value === "object" && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch {
    // Said below: what is no JSON is no object either.
  }
  return end(64, `the arguments are no JSON object: ${given}. Write them like '{"action":"start"}'`);
}

if (path === undefined || command === undefined || tooMany.length > 0)
  end(64, "usage: npm run order -- SOCKET COMMAND ['{\"ARGUMENT\":VALUE}']");
const args = readArguments();
const client = await ControlClient.connect(path).catch((error: Error) =>
  end(2, `no guardian listens at ${path}: ${error.message}`),
);
try {
  process.stdout.write(`${JSON.stringify(await client.ask(command, args), null, 2)}\n`);
} catch (error) {
  end(1, error instanceof OrderFailed ? `${error.message} [${error.code}]` : (error as Error).message);
} finally {
  client.close();
}
