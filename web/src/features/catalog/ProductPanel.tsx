// SPDX-License-Identifier: Apache-2.0
import { Card, NativeSelect, Stack } from '@mantine/core';
import { type ReactNode, useState } from 'react';
import { EmptyState } from '@/ui/EmptyState';
import { useTexts } from '@/ui/i18n';
import { LayersIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { productTexts } from './meterTexts';
import { type Product, useProducts } from './ownProducts';

type Props = { title: string; hint: string; children: (product: Product) => ReactNode };

/** A page about one of the organization's products; with several, one chooses. */
export function ProductPanel({ title, hint, children }: Props) {
  const own = useTexts(productTexts);
  const products = useProducts();
  const [chosen, choose] = useState('');
  const rows = products.data?.data ?? [];
  const product = rows.find((one) => one.id === chosen) ?? rows[0];
  return (
    <Stack gap="lg">
      <PageHead
        title={title}
        hint={hint}
        action={
          rows.length > 1 && (
            <NativeSelect
              aria-label={own.product}
              value={product?.id ?? ''}
              onChange={(event) => choose(event.currentTarget.value)}
              data={rows.map((one) => ({ value: one.id, label: one.name }))}
            />
          )
        }
      />
      <ProblemAlert error={products.error} retry={() => products.refetch()} />
      {products.isPending && (
        <Card padding={0}>
          <RowsLoading />
        </Card>
      )}
      {products.isSuccess && rows.length === 0 && (
        <Card padding={0}>
          <EmptyState icon={<LayersIcon size={28} />} title={own.none} hint={own.noneHint} />
        </Card>
      )}
      {product && children(product)}
    </Stack>
  );
}
