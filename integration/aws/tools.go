//go:build tools

package tools

import (
	_ "github.com/aws/amazon-vpc-cni-k8s/cmd/egress-cni-plugin"
	_ "github.com/aws/amazon-vpc-cni-k8s/cmd/routed-eni-cni-plugin"
)
