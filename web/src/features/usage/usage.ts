// SPDX-License-Identifier: Apache-2.0
import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { api, idempotencyKey, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';
import { dayAfter, dayOf, startOf } from '@/ui/zone';

export type Environment = 'Live' | 'Test';
export type UsageSearch = { days: number; environment: Environment };
export type LogSearch = Partial<
  Record<'from' | 'to' | 'key_id' | 'method' | 'status' | 'request_id', string>
> & { environment?: Environment; kind?: 'billable' | 'unbilled' | 'refused' };
export type Counts = Schemas['CountsShape'];
export type Call = Schemas['LoggedCallShape'];
export type Costs = Schemas['PeriodCostShape'];
export type Export = Schemas['ExportShape'];
export type Format = Export['format'] & ('csv' | 'jsonl' | 'parquet');

const EXPORTS = ['usage-exports'];
const WATCHED_MS = 1_000;

export function useSummary(query: UsageSearch) {
  return useQuery({
    queryKey: ['usage-summary', query],
    queryFn: () => unwrap(api.GET('/api/developer/usage/summary', { params: { query } })),
  });
}

export function useEndpoints(query: UsageSearch) {
  return useQuery({
    queryKey: ['usage-endpoints', query],
    queryFn: () => unwrap(api.GET('/api/developer/usage/by-endpoint', { params: { query } })),
  });
}

export function useByKey({ days, environment }: UsageSearch) {
  const query = { days, environment, interval: 'none' as const, by: ['key' as const] };
  return useQuery({
    queryKey: ['usage-keys', query],
    queryFn: () =>
      unwrap(
        api.GET('/api/developer/usage/detailed', {
          params: { query: { ...query, percentiles: true } },
        }),
      ),
  });
}

export function useCosts() {
  return useQuery({
    queryKey: ['usage-costs'],
    queryFn: () => unwrap(api.GET('/api/developer/usage/costs')),
  });
}

/** What is left of every quota. */
export function useQuotas() {
  return useQuery({
    queryKey: ['quotas'],
    queryFn: () => unwrap(api.GET('/api/billing/quota')),
  });
}

/** The names of the keys, to choose from; only for who may see them. */
export function useKeyNames(may: boolean) {
  return useQuery({
    queryKey: ['key-names'],
    enabled: may,
    queryFn: () =>
      unwrap(api.GET('/api/developer/api-keys', { params: { query: { limit: 200 } } })),
  });
}

/** The log, newest first, a page at a time. A page may be short: the search goes on behind it. */
export function useLogs(search: LogSearch) {
  return useInfiniteQuery({
    queryKey: ['usage-logs', search],
    queryFn: ({ pageParam }) =>
      unwrap(
        api.GET('/api/developer/usage/logs', {
          params: { query: { ...asked(search), ...(pageParam && { cursor: pageParam }) } },
        }),
      ),
    initialPageParam: '',
    getNextPageParam: (page) => page.next_cursor,
  });
}

export function useCall(call: Call | null) {
  return useQuery({
    queryKey: ['usage-call', call?.id],
    enabled: call !== null,
    queryFn: () =>
      unwrap(
        api.GET('/api/developer/usage/logs/{event_id}', {
          params: { path: { event_id: call?.id ?? '' }, query: { at: call?.at ?? '' } },
        }),
      ),
  });
}

/** The files that were asked for; asked again every second while one is being written. */
export function useExports(opened: boolean) {
  return useQuery({
    queryKey: EXPORTS,
    enabled: opened,
    queryFn: () =>
      unwrap(api.GET('/api/developer/usage/export', { params: { query: { limit: 5 } } })),
    refetchInterval: ({ state }) => (state.data?.data.some(isUnderWay) ? WATCHED_MS : false),
  });
}

export function isUnderWay(file: Export): boolean {
  return file.status === 'Waiting' || file.status === 'Running';
}

export function useStartExport() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: ({
      format,
      search,
      range,
    }: {
      format: Format;
      search: LogSearch;
      range: Range;
    }) => {
      const { from, to, ...filters } = asked(search);
      return unwrap(
        api.POST('/api/developer/usage/export', {
          params: { header: { 'Idempotency-Key': idempotencyKey() } },
          body: { format, ...range, ...filters },
        }),
      );
    },
    onSuccess: () => client.invalidateQueries({ queryKey: EXPORTS }),
  });
}

export type Range = { from: string; to: string };

/** Fetches a file with the session's token and hands it to the browser. */
export async function download(file: Export): Promise<void> {
  const params = { path: { export_id: file.id } };
  const call = api.GET('/api/developer/usage/export/{export_id}/file', { params, parseAs: 'blob' });
  const url = URL.createObjectURL((await unwrap(call)) as Blob);
  const link = document.createElement('a');
  link.href = url;
  link.download = `calls-${dayOf(file.period.starts_at)}.${file.format}`;
  link.click();
  URL.revokeObjectURL(url);
}

export function useAnalytics(query: UsageSearch) {
  return useQuery({
    queryKey: ['provider-analytics', query],
    queryFn: () => unwrap(api.GET('/api/provider/analytics', { params: { query } })),
  });
}

/** The filters as the API takes them: days of the calendar here, instants there. */
function asked({ kind, from, to, ...rest }: LogSearch) {
  return {
    ...rest,
    ...(from && { from: startOf(from) }),
    ...(to && { to: startOf(dayAfter(to)) }),
    ...(kind === 'billable' && { billable: true }),
    ...(kind === 'unbilled' && { billable: false, refused: false }),
    ...(kind === 'refused' && { refused: true }),
  };
}
