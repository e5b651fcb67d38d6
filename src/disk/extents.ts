/** Ranges of bytes of a disk, [from, to). */

export interface Extent {
  readonly from: number;
  readonly to: number;
}

/**
 * The union as a sorted list in which nothing touches, at most `most` long: the nearest neighbours are joined
 * first, so it may cover more, never less.
 */
export function union(extents: readonly Extent[], most = Number.POSITIVE_INFINITY): Extent[] {
  const sorted = extents.filter(({ from, to }) => from < to).sort((a, b) => a.from - b.from);
  const joined: { from: number; to: number }[] = [];
  for (const { from, to } of sorted) {
    const last = joined.at(-1);
    if (last !== undefined && from <= last.to) last.to = Math.max(last.to, to);
    else joined.push({ from, to });
  }
  if (joined.length <= most) return joined;
  const gaps = joined.slice(1).map(({ from }, i) => from - joined[i]!.to);
  const bridged = [...gaps].sort((a, b) => a - b)[joined.length - most - 1]!;
  return union(
    joined.map(({ from, to }, i) => ({
      from,
      to: gaps[i] !== undefined && gaps[i] <= bridged ? joined[i + 1]!.from : to,
    })),
  );
}

/** What of `whole` is in none of `holes`, in order. */
export function subtract(whole: Extent, holes: readonly Extent[]): Extent[] {
  const left: Extent[] = [];
  let from = whole.from;
  for (const hole of union(holes)) {
    if (hole.to <= from) continue;
    if (hole.from >= whole.to) break;
    if (hole.from > from) left.push({ from, to: hole.from });
    from = hole.to;
  }
  if (from < whole.to) left.push({ from, to: whole.to });
  return left;
}

/** Cuts extents so that none is longer than `most` or crosses a multiple of it. */
export function* strides(extents: Iterable<Extent>, most: number): Generator<Extent> {
  for (const { from, to } of extents)
    for (let at = from; at < to; ) {
      const end = Math.min(to, at - (at % most) + most);
      yield { from: at, to: end };
      at = end;
    }
}

/** Grown outwards to multiples of `block`, but not beyond `end`. */
export function aligned({ from, to }: Extent, block: number, end: number): Extent {
  return { from: from - (from % block), to: Math.min(end, Math.ceil(to / block) * block) };
}

export function totalBytes(extents: readonly Extent[]): number {
  return extents.reduce((sum, { from, to }) => sum + to - from, 0);
}
