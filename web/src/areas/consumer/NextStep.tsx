// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Group, Stack, Text } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import type { Schemas } from '@/api/client';
import { useMay } from '@/api/session';
import { useTexts } from '@/ui/i18n';
import classes from './consumer.module.css';
import { dashboardTexts } from './texts';

/** The one thing to do now, until calls come in: a plan, a key, a call. */
export function NextStep({ dashboard }: { dashboard: Schemas['Dashboard'] }) {
  const own = useTexts(dashboardTexts);
  const mayPlan = useMay('manage_subscriptions');
  const mayKeys = useMay('manage_api_keys');
  const { subscription, active_keys, calls_this_month } = dashboard;
  if (calls_this_month > 0) return null;
  if (!subscription && mayPlan) {
    return (
      <Step text={own.nextPlan}>
        <Button component={Link} to="/onboarding">
          {own.nextPlanAction}
        </Button>
      </Step>
    );
  }
  if (subscription && active_keys === 0 && mayKeys) {
    return (
      <Step text={own.nextKey}>
        <Button component={Link} to="/keys">
          {own.nextKeyAction}
        </Button>
      </Step>
    );
  }
  return null;
}

function Step({ text, children }: { text: string; children: ReactNode }) {
  const own = useTexts(dashboardTexts);
  return (
    <Card component="section" aria-label={own.nextTitle} className={classes.next ?? ''}>
      <Group justify="space-between" gap="md">
        <Stack gap={4}>
          <Text fw={650}>{own.nextTitle}</Text>
          <Text size="sm">{text}</Text>
        </Stack>
        {children}
      </Group>
    </Card>
  );
}
