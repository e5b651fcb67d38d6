import assert from "node:assert/strict";
import { test } from "node:test";
import { EchoAudit } from "../../src/lab/echo-audit.ts";

function audit(answers: readonly (readonly [number: number, before: number])[]) {
  const judge = new EchoAudit();
  for (const [number, before] of answers) judge.answer(number, before);
  const { wentBack, lost, repeated, highest } = judge;
  return { wentBack, lost, repeated, highest };
}

test("one request after the other is clean, also if it was sent twice, whatever the guest remembered at first", () => {
  const clean = { wentBack: 0, lost: 0, repeated: 0, highest: 4 };
  for (const first of [0, 1, 7000])
    assert.deepEqual(
      audit([
        [1, first],
        [2, 1],
        [3, 3],
        [4, 3],
      ]),
      clean,
    );
});

test("an older state is counted once, with every answer that it does not know of", () => {
  const answers = [
    [1, 0],
    [2, 1],
    [3, 2],
    [4, 3],
    [5, 1],
    [6, 5],
  ] as const;
  assert.deepEqual(audit(answers), { wentBack: 1, lost: 3, repeated: 0, highest: 6 });
});

test("a number that was not yet asked for is somebody else's", () => {
  const answers = [
    [1, 0],
    [2, 9],
  ] as const;
  assert.deepEqual(audit(answers), { wentBack: 0, lost: 0, repeated: 1, highest: 2 });
});
