/** In place of `src/guardian/watch/stalls.ts`, which measures this very process. */
export class Stalls {
  readonly longestMs = 0;
}
