// SPDX-License-Identifier: Apache-2.0
import {
  Button,
  Checkbox,
  Group,
  Input,
  NumberInput,
  SegmentedControl,
  SimpleGrid,
  Stack,
  TextInput,
} from '@mantine/core';
import { isNotEmpty, useForm } from '@mantine/form';
import { useState } from 'react';
import { api, idempotencyKey } from '@/api/client';
import { unwrap } from '@/api/problem';
import { useTexts } from '@/ui/i18n';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useSubmit } from '@/ui/useSubmit';
import { wordTexts } from '@/ui/words';
import { useKeysChanged } from './keys';
import { keyFieldTexts, keyTexts } from './texts';

// The default catalogue of spec 01.
const SCOPES = [
  'assets.read',
  'assets.write',
  'measurements.read',
  'measurements.write',
  'reports.read',
  'reports.create',
  'alerts.read',
  'webhooks.manage',
  'billing.read',
];
const READING = ['assets.read', 'measurements.read', 'alerts.read', 'reports.read'];

type FormProps = { onSecret: (secret: string) => void; onCancel: () => void };

/** Name, environment and scopes of a new key; `onSecret` gets its secret. */
export function CreateKeyForm({ onSecret, onCancel }: FormProps) {
  const own = useTexts(keyTexts);
  const words = useTexts(wordTexts);
  const keysChanged = useKeysChanged();
  // One name for this form's key: a retry after a lost answer makes no second one.
  const [idempotency] = useState(idempotencyKey);
  const form = useForm({
    mode: 'uncontrolled',
    initialValues: {
      name: '',
      environment: 'Test' as 'Test' | 'Live',
      scopes: READING,
      monthly_quota: '' as number | '',
    },
    validate: { name: isNotEmpty(words.required) },
  });
  const send = async (values: ReturnType<typeof form.getValues>) => {
    const quota = values.monthly_quota;
    const body = { ...values, monthly_quota: quota === '' ? null : quota, ip_allow: [] };
    const headers = { 'Idempotency-Key': idempotency };
    const key = await unwrap(api.POST('/api/developer/api-keys', { body, headers }));
    await keysChanged();
    if (key.secret) onSecret(key.secret);
    else onCancel();
  };
  const { onSubmit, pending, failure } = useSubmit(form, send, useTexts(keyFieldTexts));
  return (
    <form onSubmit={onSubmit} noValidate>
      <Stack>
        <ProblemAlert error={failure} />
        <TextInput
          label={own.name}
          description={own.nameHint}
          maxLength={100}
          required
          data-autofocus
          key={form.key('name')}
          {...form.getInputProps('name')}
        />
        <Input.Wrapper label={own.environment} labelElement="div">
          <SegmentedControl
            fullWidth
            mt={4}
            aria-label={own.environment}
            data={[
              { value: 'Test', label: own.test },
              { value: 'Live', label: own.live },
            ]}
            key={form.key('environment')}
            {...form.getInputProps('environment')}
          />
        </Input.Wrapper>
        <Checkbox.Group
          label={own.scopes}
          description={own.scopesHint}
          key={form.key('scopes')}
          {...form.getInputProps('scopes')}
        >
          <SimpleGrid cols={{ base: 1, xs: 2 }} spacing="xs" mt="xs">
            {SCOPES.map((scope) => (
              <Checkbox key={scope} value={scope} label={scope} />
            ))}
          </SimpleGrid>
        </Checkbox.Group>
        <NumberInput
          label={own.quota}
          description={own.quotaHint}
          min={0}
          max={1_000_000_000_000}
          allowDecimal={false}
          key={form.key('monthly_quota')}
          {...form.getInputProps('monthly_quota')}
        />
        <Group justify="flex-end" mt="xs">
          <Button variant="default" onClick={onCancel}>
            {words.cancel}
          </Button>
          <Button type="submit" loading={pending}>
            {own.createAction}
          </Button>
        </Group>
      </Stack>
    </form>
  );
}
