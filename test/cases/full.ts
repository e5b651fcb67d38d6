import type { Case } from "./case.ts";

const CONTROL = "test/unit/control-socket.test.ts";
const SAMPLES = "test/unit/guardian-samples.test.ts";

export const cases: readonly Case[] = [
  {
    number: 27,
    input:
      "`status` after an hour of protection; 60 `samples` orders in one packet; clients that do not read",
    right: "constant cost; orders, answers, clients and lines are bounded",
    tests: [
      { file: SAMPLES, name: "I6: what a status and a slice cost does not grow with what was measured" },
      {
        file: CONTROL,
        name: "I6: orders that come at once are taken one a turn, and more than 32 that wait are refused by their id",
      },
      {
        file: CONTROL,
        name: "I6: a caller that gives orders and reads no answers is not answered further, and at last dropped",
      },
      {
        file: CONTROL,
        name: "I6: callers that wait for nothing make room for others; where all wait for something, one is turned away",
      },
    ],
  },
  {
    number: 38,
    input: "orders through `echo … | nc -q 30 -U control.sock`, which closes its half",
    right: "answered; a caller that has gone entirely ends its hold",
    tests: [
      {
        file: CONTROL,
        name: "I5: a caller that has closed its half gets the answers it waits for, and then the end",
      },
      { file: CONTROL, name: "I5: a hold ends with its caller, though it had closed its half before" },
      {
        file: CONTROL,
        name: "a watcher that has closed its half goes on being told, until it has gone",
      },
    ],
  },
];
