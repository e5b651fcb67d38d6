/**
 * One question to several endpoints: the next is begun when one has failed or is slow, so that an endpoint on
 * the host that has just died costs a fraction of a second and not its whole timeout. For questions that may
 * be asked twice.
 */

/**
 * Resolves with the first answer, and aborts the other tries. Rejects with every reason when all have failed.
 */
export function firstAnswer<T>(
  tries: readonly ((signal: AbortSignal) => Promise<T>)[],
  patienceMs: number,
  signal: AbortSignal,
): Promise<T> {
  const over = new AbortController();
  const until = AbortSignal.any([signal, over.signal]);
  return new Promise<T>((resolve, reject) => {
    const reasons: string[] = [];
    let begun = 0;
    let timer: NodeJS.Timeout | undefined;
    const begin = () => {
      clearTimeout(timer);
      const one = tries[begun];
      if (one === undefined) return;
      begun++;
      timer = setTimeout(begin, patienceMs);
      one(until).then(answered, failed);
    };
    const answered = (answer: T) => {
      clearTimeout(timer);
      resolve(answer);
      over.abort();
    };
    const failed = (error: Error) => {
      reasons.push(error.message);
      if (signal.aborted || reasons.length === tries.length) {
        clearTimeout(timer);
        reject(new Error(reasons.join("; ")));
      } else if (!over.signal.aborted) begin();
    };
    begin();
  });
}
