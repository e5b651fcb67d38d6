/**
 * The lab and the tests find the programs of administrators also for a user whose PATH does not have them.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { completeSearchPath } from "../../src/lab/search-path.ts";

test("what an ordinary PATH lacks is added behind it, once; what is first stays first", () => {
  const user = { PATH: "/project/node_modules/.bin:/usr/local/bin:/usr/bin:/bin" };
  completeSearchPath(user);
  completeSearchPath(user);
  assert.equal(
    user.PATH,
    "/project/node_modules/.bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
  );
  const none = {};
  completeSearchPath(none);
  assert.deepEqual(none, { PATH: "/usr/local/sbin:/usr/sbin:/sbin" });
});
