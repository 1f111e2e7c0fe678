// SPDX-License-Identifier: Apache-2.0
import { useInfiniteQuery, useQueryClient } from '@tanstack/react-query';
import { api, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';

export type ApiKey = Schemas['KeyShape'];

const KEYS = ['api-keys'];

/** The organization's keys, newest first, a page at a time. */
export function useKeys() {
  return useInfiniteQuery({
    queryKey: KEYS,
    queryFn: ({ pageParam }) =>
      unwrap(
        api.GET('/api/developer/api-keys', {
          params: { query: { ...(pageParam && { cursor: pageParam }) } },
        }),
      ),
    initialPageParam: '',
    getNextPageParam: (page) => page.next_cursor,
  });
}

/** Call after a key was made or revoked: lists and figures are asked for anew. */
export function useKeysChanged() {
  const client = useQueryClient();
  return () =>
    Promise.all([
      client.invalidateQueries({ queryKey: KEYS }),
      client.invalidateQueries({ queryKey: ['dashboard'] }),
    ]);
}
