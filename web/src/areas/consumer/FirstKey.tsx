// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Stack } from '@mantine/core';
import { CopyField } from '@/ui/CopyField';
import { useTexts } from '@/ui/i18n';
import { PageHead } from '@/ui/PageHead';
import { onboardingTexts } from './texts';

/** The secret of the key that came with the subscription, this one time. */
export function FirstKey({ secret, onDone }: { secret: string; onDone: () => void }) {
  const own = useTexts(onboardingTexts);
  return (
    <Stack gap="lg">
      <PageHead title={own.firstKeyTitle} hint={own.firstKeyHint} />
      <Card padding="xl">
        <CopyField label={own.firstKey} value={secret}>
          <Button variant="default" onClick={onDone}>
            {own.toStart}
          </Button>
        </CopyField>
      </Card>
    </Stack>
  );
}
