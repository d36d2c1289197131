from entitlements.cli import main

main()
