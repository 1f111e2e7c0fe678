// SPDX-License-Identifier: Apache-2.0
import { Center, Loader, Skeleton, Stack } from '@mantine/core';
import { useTexts } from './i18n';
import { wordTexts } from './words';

/** A whole page that is on its way. */
export function PageLoading() {
  const words = useTexts(wordTexts);
  return (
    <Center mih="60vh" role="status" aria-label={words.loading}>
      <Loader />
    </Center>
  );
}

/** Rows that are on their way, in about the space they will take. */
export function RowsLoading({ rows = 3 }: { rows?: number }) {
  const words = useTexts(wordTexts);
  return (
    <Stack gap="sm" p="lg" role="status" aria-label={words.loading}>
      {Array.from({ length: rows }, (_, row) => row).map((row) => (
        <Skeleton key={row} height={32} />
      ))}
    </Stack>
  );
}
