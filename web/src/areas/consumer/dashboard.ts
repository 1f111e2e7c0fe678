// SPDX-License-Identifier: Apache-2.0
import { useQuery } from '@tanstack/react-query';
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';

/** What the start page and the header show; asked for again when the reader comes back. */
export function useDashboard() {
  return useQuery({
    queryKey: ['dashboard'],
    queryFn: () => unwrap(api.GET('/api/organizations/dashboard')),
  });
}

/** Whether the organization sells a product of its own; asked only for who may see them. */
export function useSells(may: boolean): boolean {
  const products = useQuery({
    queryKey: ['own-products'],
    enabled: may,
    queryFn: () => unwrap(api.GET('/api/provider/products', { params: { query: { limit: 1 } } })),
  });
  return may && (products.data?.data.length ?? 0) > 0;
}
