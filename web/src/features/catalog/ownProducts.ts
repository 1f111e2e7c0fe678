// SPDX-License-Identifier: Apache-2.0
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { api, idempotencyKey, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';

export type Product = Schemas['nimbus__catalog__schemas__ProductShape'];
export type Meter = Schemas['nimbus__catalog__schemas__MeterShape'];
export type NewMeter = Schemas['NewMeter'];
export type Plan = Schemas['nimbus__catalog__schemas__PlanShape'];
export type Move = Schemas['PlanMoveShape'];

const ALL = { limit: 200 };
const WATCHED_MS = 2_000;

/** The products that the organization sells. */
export function useProducts() {
  return useQuery({
    queryKey: ['own-products', 'all'],
    queryFn: () => unwrap(api.GET('/api/provider/products', { params: { query: ALL } })),
  });
}

export function useMeters(product_id: string) {
  const params = { path: { product_id }, query: ALL };
  return useQuery({
    queryKey: ['meters', product_id],
    queryFn: () => unwrap(api.GET('/api/provider/products/{product_id}/meters', { params })),
  });
}

export function usePlans(product_id: string) {
  const params = { path: { product_id }, query: ALL };
  return useQuery({
    queryKey: ['own-plans', product_id],
    queryFn: () => unwrap(api.GET('/api/provider/products/{product_id}/plans', { params })),
  });
}

export function useOwnAddOns(product_id: string) {
  const params = { path: { product_id }, query: ALL };
  return useQuery({
    queryKey: ['own-add-ons', product_id],
    queryFn: () => unwrap(api.GET('/api/provider/products/{product_id}/add-ons', { params })),
  });
}

/** Makes a meter, or says anew what one counts from now on. */
export function useSaveMeter(product_id: string) {
  const client = useQueryClient();
  return async (given: NewMeter, known: Meter | null) => {
    const path = '/api/provider/products/{product_id}/meters' as const;
    if (known) {
      const { unit, filters, source_path } = given;
      const body = {
        unit,
        filters,
        source_path,
        version: known.version,
      } as Schemas['ChangedMeter'];
      const params = { path: { product_id, key: known.key } };
      await unwrap(api.PUT(`${path}/{key}`, { params, body }));
    } else {
      const params = { path: { product_id }, header: { 'Idempotency-Key': idempotencyKey() } };
      await unwrap(api.POST(path, { params, body: given }));
    }
    await client.invalidateQueries({ queryKey: ['meters', product_id] });
  };
}

type PlanPath = { product_id: string; plan_id: string };
const MOVES = '/api/provider/products/{product_id}/plans/{plan_id}/moves' as const;

/** The moves of a plan's subscribers; asked again while one goes on. */
export function useMoves(path: PlanPath) {
  return useQuery({
    queryKey: ['plan-moves', path.plan_id],
    queryFn: () => unwrap(api.GET(MOVES, { params: { path, query: { limit: 3 } } })),
    refetchInterval: ({ state }) =>
      state.data?.data.some((move) => move.status !== 'Done') ? WATCHED_MS : false,
  });
}

/** Whom a move would take where; nothing is changed by asking. */
export function useMovePreview(path: PlanPath, to_plan: string) {
  return useQuery({
    queryKey: ['plan-move-preview', path.plan_id, to_plan],
    queryFn: () => unwrap(api.GET(`${MOVES}/preview`, { params: { path, query: { to_plan } } })),
    staleTime: 0,
    retry: false,
  });
}

export function useMovePlan(path: PlanPath) {
  const client = useQueryClient();
  return async (body: Schemas['MoveBody']) => {
    const params = { path, header: { 'Idempotency-Key': idempotencyKey() } };
    await unwrap(api.POST(MOVES, { params, body }));
    await client.invalidateQueries({ queryKey: ['plan-moves', path.plan_id] });
  };
}
