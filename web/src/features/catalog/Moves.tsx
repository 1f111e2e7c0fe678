// SPDX-License-Identifier: Apache-2.0
import { Alert, Progress, Stack, Text } from '@mantine/core';
import { formatDate, formatNumber } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { type Plan, useMoves } from './ownProducts';
import { salesTexts } from './planTexts';

type Props = { path: { product_id: string; plan_id: string }; plans: Plan[] };

/** How far the last moves of a plan's subscribers are. */
export function Moves({ path, plans }: Props) {
  const own = useTexts(salesTexts);
  const { locale } = useLocale();
  const moves = useMoves(path).data?.data ?? [];
  const number = (value: number) => formatNumber(value, locale);
  if (moves.length === 0) return null;
  return (
    <Stack gap="sm" px="lg" pb="lg">
      {moves.map((move) => {
        const name = plans.find((one) => one.slug === move.to_plan)?.name ?? move.to_plan;
        const done = move.moved + move.left_out;
        return (
          <Alert key={move.id} variant="light" color="sky" role="note" py="xs">
            <Text size="sm" fw={600}>
              {own.moveTo(name, move.to_plan_version, formatDate(move.not_before, locale))}
            </Text>
            <Text size="sm">
              {own.told(number(move.moved), number(move.total))}{' '}
              {move.left_out > 0 && own.leftOut(number(move.left_out))} {move.reason}
            </Text>
            {move.status !== 'Done' && (
              <Progress
                mt={6}
                animated
                value={(done / Math.max(1, move.total)) * 100}
                aria-label={own.progress}
              />
            )}
          </Alert>
        );
      })}
    </Stack>
  );
}
