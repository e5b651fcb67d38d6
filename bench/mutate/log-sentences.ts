/** A plugin for StrykerJS: leaves out changes to sentences that people read and that nothing depends on. */

interface SyntaxPath {
  readonly node: { readonly type: string; readonly callee?: { readonly name?: string } };
  readonly parent: SyntaxPath["node"] | null;
}

/** They make a report, which the guardian writes to the log and sends to whoever gave an order. */
const REPORTS = ["info", "warn", "error"];
const TEXTS = ["StringLiteral", "TemplateLiteral"];

/**
 * StrykerJS calls this with every part of the code, and takes an answer as the reason to leave out this part
 * and what is in it.
 */
function shouldIgnore({ node, parent }: SyntaxPath): string | undefined {
  const isSentence =
    TEXTS.includes(node.type) &&
    parent?.type === "CallExpression" &&
    REPORTS.includes(parent.callee?.name ?? "");
  return isSentence
    ? "the sentence of a report: its wording is free, and tests see that there is a report of this level"
    : undefined;
}

export const strykerPlugins = [{ kind: "Ignore", name: "log-sentences", value: { shouldIgnore } }];
