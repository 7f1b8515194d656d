package main

import (
	"context"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"netroot/boot"
	"netroot/boot/host"
)

// systemConfig and localConfig are where the policy is looked for when --config is not given.
const (
	systemConfig = "/etc/netroot/netroot.yaml"
	localConfig  = "netroot.yaml"
)

func (c *cli) serveCommand() *cobra.Command {
	var services services
	var user string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Hand the store's images to machines: proxy-DHCP, TFTP, HTTP and NFS",
		Long: `Answers machines that boot over the network, beside the DHCP server that is already there and without changing it:
that one goes on giving out addresses, netroot only says what to boot and serves it.

The policy is read again on SIGHUP and when the file changes; one with a fault is reported, and the one before stays in force.
Without a policy file every machine on every interface is offered a menu of all images, the newest first.
Each event is one line on standard error, or with --json one JSON object per line on standard output.

Started by root it goes on as the user netroot, where there is one, when its ports are open, and keeps no capability. With
"default: ignore" in the policy, TFTP, HTTP and NFS answer only machines that are listed.`,
		Example: `  netroot serve
  netroot serve --interface eno1 --interface eno2 --config site.yaml
  netroot serve --no-dhcp --no-tftp        # HTTP and NFS only, beside somebody else's proxy`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ports, err := services.chosen()
			if err != nil {
				return err
			}
			return c.serve(cmd.Context(), services.interfaces, user, ports)
		},
	}
	services.add(cmd.Flags(), "answer")
	cmd.Flags().StringVar(&user, "user", "", "run as this user once the ports are open (default: "+serverName+" where there is one)")
	return cmd
}

func (c *cli) serve(ctx context.Context, interfaces []string, user string, ports boot.Ports) error {
	// A reload may come before the policy is read and followed (host.Live), and finds nothing to do then; c.limit passes this on.
	signal.Ignore(syscall.SIGHUP)
	s, err := c.openStore()
	if err != nil {
		return err
	}
	log := c.logger(c.stderr)
	if c.json {
		level := slog.LevelInfo
		if c.verbose {
			level = slog.LevelDebug
		}
		log = slog.New(slog.NewJSONHandler(c.stdout, &slog.HandlerOptions{Level: level}))
	}
	account, reason, err := account(user)
	if err != nil {
		return err
	}
	if err := secure(s, account, log); err != nil {
		return err
	}
	if c.limit != nil {
		if err := c.limit(account); err != nil {
			return err
		}
	}
	policy, err := c.livePolicy(interfaces)
	if err != nil {
		return err
	}
	server := &boot.Server{Store: s, Policy: policy, Ports: ports, Log: log}
	if c.limit != nil {
		server.Opened = func() error { return settle(account, reason, s, policy.Policy().File(), log) }
	}
	return server.Run(ctx)
}

// livePolicy reads the policy that --config names, else the first one found where it belongs, else the one that offers
// everybody a menu.
func (c *cli) livePolicy(interfaces []string) (*host.Live, error) {
	if c.configFile != "" {
		return host.Open(c.configFile, interfaces)
	}
	return host.Find([]string{systemConfig, localConfig}, interfaces)
}

// policy is livePolicy for who asks once.
func (c *cli) policy() (*host.Policy, error) {
	live, err := c.livePolicy(nil)
	if err != nil {
		return nil, err
	}
	return live.Policy(), nil
}
