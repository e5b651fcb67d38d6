/**
 * Loaded into each of a guardian's threads (NODE_OPTIONS=--import): it takes single aids of `tcg-aids.ts`
 * away, to see what happens without. The product has no switch for that. REMUS_WITHOUT_AIDS lists what to
 * take away: `odd-ram`, `library`.
 */
import { registerHooks } from "node:module";

const stand = new URL("./fewer-aids.ts", import.meta.url).href;

registerHooks({
  resolve(specifier, context, next) {
    const resolved = next(specifier, context);
    const replaced = resolved.url.endsWith("/src/hypervisor/qemu/tcg-aids.ts") && context.parentURL !== stand;
    return replaced ? { ...resolved, url: stand } : resolved;
  },
});
