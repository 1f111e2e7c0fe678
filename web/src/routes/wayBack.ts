// SPDX-License-Identifier: Apache-2.0

/** The address to go to after signing in: one of ours, or the start page. */
export function wayBack(search: Record<string, unknown>): { from?: string } {
  const from = String(search.from ?? '');
  // Two slashes would name another host.
  return /^\/(?![/\\])/.test(from) ? { from } : {};
}
