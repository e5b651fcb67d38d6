import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { CounterAudit } from "../../src/lab/counter-audit.ts";

function audit(answers: readonly (number | "broken")[]) {
  const judge = new CounterAudit();
  for (const answer of answers) {
    if (answer === "broken") judge.leftUnanswered();
    else judge.answer(answer);
  }
  return { wentBack: judge.wentBack, lost: judge.lost, repeated: judge.repeated };
}

const clean = { wentBack: 0, lost: 0, repeated: 0 };

test("a counter that goes up by one is clean, wherever it begins", () => {
  fc.assert(
    fc.property(fc.integer({ min: -1000, max: 1e9 }), fc.integer({ min: 0, max: 50 }), (first, more) => {
      const answers = Array.from({ length: more + 1 }, (_, index) => first + index);
      assert.deepEqual(audit(answers), clean);
    }),
  );
});

test("an older state is counted once, with every acknowledged increment that is missing in it", () => {
  assert.deepEqual(audit([1, 2, 3, 4, 5, 3, 4]), { wentBack: 1, lost: 3, repeated: 0 });
  assert.deepEqual(audit([7, 7]), { wentBack: 1, lost: 1, repeated: 0 });
});

test("the highest value that was told stays what it is when the counter goes back", () => {
  const judge = new CounterAudit();
  for (const [answer, highest] of [
    [-3, -3],
    [5, 5],
    [4, 5],
    [6, 6],
  ] as const) {
    judge.answer(answer);
    assert.equal(judge.highest, highest);
  }
});

test("an increment applied twice is counted as often as it is too many", () => {
  assert.deepEqual(audit([1, 3, 4]), { wentBack: 0, lost: 0, repeated: 1 });
  assert.deepEqual(audit([1, 6]), { wentBack: 0, lost: 0, repeated: 4 });
});

test("a request without an answer may have been applied or not, but not twice", () => {
  assert.deepEqual(audit([1, 2, "broken", 3]), clean);
  assert.deepEqual(audit([1, 2, "broken", 4]), clean);
  assert.deepEqual(audit([1, 2, "broken", "broken", 5]), clean);
  assert.deepEqual(audit([1, 2, "broken", 5]), { wentBack: 0, lost: 0, repeated: 1 });
  assert.deepEqual(audit([1, 2, "broken", 2]), { wentBack: 1, lost: 1, repeated: 0 });
  assert.deepEqual(audit([1, "broken", 2, 4]), { wentBack: 0, lost: 0, repeated: 1 });
});
