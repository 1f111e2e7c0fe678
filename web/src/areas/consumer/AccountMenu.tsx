// SPDX-License-Identifier: Apache-2.0
import { Avatar, Group, Menu, Text, UnstyledButton, VisuallyHidden } from '@mantine/core';
import { useQueryClient } from '@tanstack/react-query';
import { signOut, switchOrganization, useSession } from '@/api/session';
import { useTexts } from '@/ui/i18n';
import { CheckIcon, ChevronIcon, SignOutIcon } from '@/ui/icons';
import classes from './consumer.module.css';
import { useDashboard } from './dashboard';
import { navigationTexts } from './texts';

/** Who is signed in, for which organization; the way to another one, and out. */
export function AccountMenu() {
  const own = useTexts(navigationTexts);
  const session = useSession();
  const client = useQueryClient();
  const current = useDashboard().data?.organization;
  if (!session) return null;
  const { user, organizations } = session;
  const name = `${user.first_name} ${user.last_name}`.trim() || user.email;
  const change = async (id: string) => {
    await switchOrganization(id);
    await client.resetQueries();
  };
  return (
    <Menu position="bottom-end" width={260} radius="md" withinPortal>
      <Menu.Target>
        <UnstyledButton className={classes.account}>
          <VisuallyHidden>{own.account}:</VisuallyHidden>
          <Group gap="xs" wrap="nowrap">
            <Avatar name={name} color="sky" radius="xl" size={34} alt="" />
            <div className={classes.accountNames}>
              <Text size="sm" fw={600} lh={1.25} truncate>
                {name}
              </Text>
              <Text size="xs" c="dimmed" lh={1.25} truncate>
                {current?.name}
              </Text>
            </div>
            <ChevronIcon size={16} />
          </Group>
        </UnstyledButton>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Label>{user.email}</Menu.Label>
        {organizations.length > 1 && (
          <>
            <Menu.Divider />
            <Menu.Label>{own.organizations}</Menu.Label>
            {organizations.map((item) => (
              <Menu.Item
                key={item.id}
                onClick={() => change(item.id)}
                rightSection={item.id === current?.id ? <CheckIcon size={16} /> : null}
              >
                {item.name}
              </Menu.Item>
            ))}
          </>
        )}
        <Menu.Divider />
        <Menu.Item leftSection={<SignOutIcon size={18} />} onClick={() => signOut()}>
          {own.signOut}
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}
